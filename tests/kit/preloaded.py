"""What the server of ``forked`` imports before verbs are forked from it: most of a verb's time is libraries.

Importing this does that work, once for all verbs of a run: the libraries that stages import when they run, every stage,
and what SQLAlchemy does at the first use of MLflow's tables.
"""

import sqlite3

import confluent_kafka.admin
import dvc.repo
import evidently.presets
import exchange_calendars
import feast.infra.offline_stores.dask
import feast.infra.online_stores.sqlite
import great_expectations.expectations
import great_expectations.render
import lightgbm
import matplotlib.pyplot
import mlflow.onnx
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
import onnxruntime.quantization
import pandas as pd
import sklearn.linear_model
import sqlalchemy.orm
import torch
import tritonclient.grpc
import ville

import pipelines.cli.main
import pipelines.stack.status
import pipelines.stack.up
import training.evaluation.evaluate
import training.export.bundle
import training.export.int8
import training.fitting.loop
import training.registry.registry
from pipelines import charts, stages

LIBRARIES = (
    *(confluent_kafka, dvc, evidently, exchange_calendars, feast, great_expectations, lightgbm, matplotlib, mlflow),
    *(onnxruntime, pd, sklearn, sqlite3, torch, tritonclient, ville, training, pipelines, charts),
)

stages.table()
sqlalchemy.orm.configure_mappers()
