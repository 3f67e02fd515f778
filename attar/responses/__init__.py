"""Answers of a teacher to prompts: asked for, checked, kept as a dataset, and turned into rows to train on."""
