# The trainer with CUDA, or with --build-arg ACCELERATOR=tpu for a TPU host. From the checkout:
#   docker build -f launch/trainer.Dockerfile -t REGION-docker.pkg.dev/PROJECT/radlake/trainer:1 .
# launch.vertex installs the sdist of the checkout over the code in here, so that only a change of
# requirements/ needs a new image.
FROM python:3.12.12-slim-bookworm
ARG ACCELERATOR=gpu
# The driver and its libraries come from the host; CUDA itself is in the wheels.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1
WORKDIR /radlake
COPY requirements/${ACCELERATOR}.txt requirements.txt
RUN pip install --no-cache-dir --requirement requirements.txt
COPY setup.py pyproject.toml ./
COPY beam beam
COPY configs configs
COPY lake lake
COPY launch launch
COPY radlake radlake
COPY trainer trainer
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
ENTRYPOINT ["python", "-m", "trainer.task"]
