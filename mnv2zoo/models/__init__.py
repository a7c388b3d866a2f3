"""The networks: what they compute, how a name becomes one, and what is known of each."""
