"""Variational autoencoders: networks, noise, objectives, training and honest evaluation.

Every weight has a leading axis R and every layer is one batched matrix product, so that models with
different seeds, noise or beta train together several times faster than one after the other. Replicas
never mix: the sum of their losses has a block-diagonal gradient.

Axes, in this order: N samples (optional), R replicas, B batch, then features. Items shared by all
replicas come as (B, features); the results always have the replica axis.
"""
