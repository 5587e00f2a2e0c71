"""A stage of the user's model. In come its module and loss (`from_user`); out come `StageModule`s
that run forwards, and backwards in one piece or two (`split_backward`), for one micro-batch at a
time. Every product of matrices is computed once, and gradients are summed in autograd's own order.
"""
