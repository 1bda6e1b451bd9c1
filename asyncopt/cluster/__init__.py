"""Work on other processes and machines, by Ray: whole studies, or a candidate on a shard of examples; never a call."""

from asyncopt.cluster.ray import ALONE, Cluster, ray_cluster
from asyncopt.cluster.scorers import Scorers

__all__ = ["ALONE", "Cluster", "Scorers", "ray_cluster"]
