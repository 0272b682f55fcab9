"""Decides: who is asking, which cookies they get, what AdTarget is told. Plain facts in, values out."""
