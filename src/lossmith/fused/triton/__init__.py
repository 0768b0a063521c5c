"""The engine in Triton kernels and cuBLAS products, for hidden states on a GPU: the same three entrances as :mod:`lossmith.fused.engine`.

The first kernel forms tiles of logits and keeps sums of them; the second forms tiles of their slopes, which ordinary matrix products
then take to the hidden states and the head. Nothing here waits for the device. Importing this package imports no triton;
:mod:`lossmith.fused.triton.engine` does.
"""
