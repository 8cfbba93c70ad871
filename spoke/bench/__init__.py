"""`python -m spoke.bench`: the same workloads on Spoke and on Ray, in turn, in one run on one machine.

`workloads` is the one file that both engines run; `floors` measures what the machine itself can do;
`runner` starts one process per workload and engine; `budget` holds the targets; `report` prints the
table.  No figure is compared with one of another run: machines differ, and change from hour to hour.
"""
