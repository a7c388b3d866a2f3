"""How good a network is: metrics and reports."""
