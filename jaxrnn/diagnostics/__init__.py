"""Seeing the gradient, one question a file; what they are asked with is a Loop like any other."""
