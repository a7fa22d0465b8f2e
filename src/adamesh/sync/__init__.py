"""Schedules: when islands agree. A schedule is a pure function of the step, one file each."""
