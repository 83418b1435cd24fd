"""Long attacks on files, processes and readers. `make torture` runs each module here;
none is collected in a normal run.
"""
