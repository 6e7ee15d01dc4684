"""
Run all benchmarks, or with --only those whose name has a word in it.

A JSON line for each figure on standard output, a table on standard error at the end.
With --short it takes two minutes, else about eight.
"""

from __future__ import annotations

import sys

from bench_churn import churn
from bench_idle import idle
from bench_import import imports
from bench_mold import mold
from bench_queues import queues
from bench_replace import replace
from bench_scale import scale
from bench_start import start
from bench_stop import stop
from bench_tick import tick
from common import main

if __name__ == "__main__":
    benchmarks = (imports, tick, replace, mold, start, stop, churn, scale, queues, idle)
    sys.exit(main(*benchmarks))
