"""Texts to model: ``python -m fwp_rl.tasks.corpora NAME`` writes their files.

For each split ``NAME.SPLIT.txt``, the text as it is, for bytes; and ``NAME.SPLIT.tokens``, where
words and punctuation stand apart, for words. Each document has a heading in WikiText's style. The
same archive makes the same files.
"""
