"""Deployment: fast inference on this machine, and standalone bundles for others."""

from mnv2zoo.deploy.export import export
from mnv2zoo.deploy.fold import fold
from mnv2zoo.deploy.optimize import Attempt, Optimized, OptimizedDetector, optimize

__all__ = ["Attempt", "Optimized", "OptimizedDetector", "export", "fold", "optimize"]
