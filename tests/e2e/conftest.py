"""Fixtures of the whole ring are defined once in ring and airflow_home, beside the other shared parts of the tests."""

from airflow_home import airflow_home
from ring import simulated, spare_home

__all__ = ["airflow_home", "simulated", "spare_home"]
