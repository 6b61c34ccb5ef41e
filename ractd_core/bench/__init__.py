"""What the method is for, measured beside what the machine could do in the same minutes."""

from ractd_core.bench.evaluation import EvaluationTimes, time_evaluation
from ractd_core.bench.latency import Latencies, LatencyRow, time_plans
from ractd_core.bench.machine import Machine, measure_machine
from ractd_core.bench.timing import Latency, plan_latency
from ractd_core.bench.train import TrainRow, time_training
from ractd_core.bench.untrained import untrained_data, untrained_models

__all__ = [
    "EvaluationTimes",
    "Latencies",
    "Latency",
    "LatencyRow",
    "Machine",
    "TrainRow",
    "measure_machine",
    "plan_latency",
    "time_evaluation",
    "time_plans",
    "time_training",
    "untrained_data",
    "untrained_models",
]
