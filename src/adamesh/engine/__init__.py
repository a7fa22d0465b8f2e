"""The engine: one step of a sharded optimizer, from autograd's hooks to the gathered parameters.

Shape suffixes: ``_N`` a whole bucket, ``_S`` this rank's shard of it.
"""
