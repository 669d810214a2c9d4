"""Serve any gRPC server that has reflection as REST/JSON: python serve.py 127.0.0.1:50051 8080."""

import asyncio
import sys

import grpc
import uvicorn

from reelhaul_transcoding import GrpcUpstream, Options, Transcoder, services_of_server


async def serve(target: str, port: int) -> None:
    """Serve *target* until interrupted; a method without a rule is POST /package.Service/Method."""
    services = await asyncio.to_thread(services_of_server, grpc.insecure_channel(target))
    async with grpc.aio.insecure_channel(target) as channel:
        app = Transcoder([(each, GrpcUpstream(channel)) for each in services], Options(auto_mapping=True))
        await uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off")).serve()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
