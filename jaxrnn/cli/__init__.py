"""The command line: a character model to train and sample, digits to read, the certificate."""
