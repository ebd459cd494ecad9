"""Facts about Alpaca's market data service, and nothing else."""
