"""Multi-modal recommendation by knowledge distillation, on PyG."""

__version__ = '0.1.0'
