"""Server process that answers the same JSON without a gateway: FastAPI with pydantic models."""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from bench.gateway.messages import CREATE_FIELDS, FIRST, job_as_json

_JOB = job_as_json(FIRST)


def _model(name: str, value: dict[str, Any]) -> type[BaseModel]:
    """Return a model with the fields of *value*."""
    fields = {key: _type(f"{name}_{key}", item) for key, item in value.items()}
    model: type[BaseModel] = create_model(name, **{key: (kind, ...) for key, kind in fields.items()})  # type: ignore[call-overload]
    return model


def _type(name: str, value: Any) -> Any:
    if name.endswith("_labels"):
        return dict[str, str]
    if isinstance(value, dict):
        return _model(name, value)
    if isinstance(value, list):
        return list[_type(name, value[0])]  # type: ignore[misc]
    return type(value)


Job: Any = _model("Job", _JOB)
CreateJob: Any = _model("CreateJob", CREATE_FIELDS)


class ListJobsResponse(BaseModel):
    """A page of jobs."""

    jobs: list[Job]


app = FastAPI()
_job = Job.model_validate(_JOB)


@app.get("/v1/jobs/{job_id}")
async def get_job(job_id: str) -> Job:
    """Answer with the same job."""
    return _job


@app.get("/v1/jobs")
async def list_jobs(page_size: int, page_token: str = "") -> ListJobsResponse:
    """Answer with as many jobs as requested."""
    return ListJobsResponse.model_construct(jobs=[_job] * page_size)


@app.post("/v1/jobs")
async def create_job(job: CreateJob) -> Job:
    """Answer with the same job."""
    return _job


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.fastapi_server")
    parser.add_argument("port", type=int, help="loopback port")
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="info")
