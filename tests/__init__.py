import multiprocessing

# Processes of the start method 'forkserver' share one import of the library.
multiprocessing.set_forkserver_preload(
    ['promptmm_pyg.training', 'promptmm_pyg.distillation']
)
