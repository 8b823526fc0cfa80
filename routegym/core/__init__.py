"""The batch-first environment: ledger, observation, reward, vector env, single env."""

from routegym.core.env import RoutingEnv
from routegym.core.ledger import Ledger
from routegym.core.observation import ObservationLayout
from routegym.core.reward import REWARDS
from routegym.core.vector_env import RoutingVectorEnv

__all__ = ["REWARDS", "Ledger", "ObservationLayout", "RoutingEnv", "RoutingVectorEnv"]
