"""Fixtures of the whole ring are defined once in ring and airflow_home, beside the other shared parts of the tests."""

from kit.airflow_home import airflow_home
from kit.ring import simulated, spare_home

__all__ = ["airflow_home", "simulated", "spare_home"]
