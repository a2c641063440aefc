"""Experiments on ranks: what each way of choosing them costs and gives."""
