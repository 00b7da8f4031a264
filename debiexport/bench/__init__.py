"""Latency, measured so that it can be trusted; `debiexport.measure_latency` is the way in.

measuring     options -> subjects proven, loaded, timed, described
opponents     what a bundle is compared with: the network exported as released, or run eagerly
subjects      things that can be timed
runner        warm-up, blocks of runs in turn, when to stop
statistics    order-statistic intervals, bootstrap of ratios
contention    what else ran on the machine meanwhile, judged by its counters
counters      those of the system: CPU pressure, steal time, load, context switches
memory        peak memory, in a process of its own
profile       where the time goes, from ONNX Runtime's profiler
report        the result, for programs and for people
tables        its tables and plots
"""
