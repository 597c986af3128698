"""The command line: training, sampling, inspection, conversion, and the certificate."""
