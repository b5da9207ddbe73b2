"""Who may do what in the stack's Airflow: its simple accounts, and viewers who may answer what a DAG asks them."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class DeskAuthManager(SimpleAuthManager):  # type: ignore[misc]  # Airflow has no types
    """Airflow's simple accounts ask for the role ``user`` to answer a question, and a user may also mark any task as
    done by hand. Here a viewer may answer (whom a question is for, Airflow checks afterwards), and mark nothing."""

    def is_authorized_dag(self, *, method: str, access_entity: Any = None, **asked: Any) -> bool:
        answers = method == "PUT" and access_entity is DagAccessEntity.HITL_DETAIL
        allowed: bool = super().is_authorized_dag(
            method="GET" if answers else method, access_entity=access_entity, **asked
        )
        return allowed
