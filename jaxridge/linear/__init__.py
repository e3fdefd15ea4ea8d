"""Ridge regression on a matrix of features: the verbs, the factorisations behind them, and rows that stream."""
