"""Trials told to an experiment tracker as they arrive: one file a tracker, behind the protocol of :mod:`lossmith.study.loggers.log`."""
