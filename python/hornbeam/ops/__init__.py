"""Stateless operations on tensors: take one, and leave the rest of hornbeam."""
