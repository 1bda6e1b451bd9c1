"""What a run will take before it is begun: calls, tokens, money and time, and what its scores can show.

:func:`run_pilot` makes some forty calls on the initial prompt, and :func:`forecast` plays possible runs on them.
"""

from asyncopt.forecast.estimate import Forecast, Interval, Served, forecast
from asyncopt.forecast.noise import Noise, noise_of
from asyncopt.forecast.pilot import NO_PILOT, Listener, Pilot, run_pilot

__all__ = [
    "NO_PILOT",
    "Forecast",
    "Interval",
    "Listener",
    "Noise",
    "Pilot",
    "Served",
    "forecast",
    "noise_of",
    "run_pilot",
]
