# A Beam worker of Dataflow. The launching Python must be a 3.12, too. From the checkout:
#   docker build -f launch/beam.Dockerfile -t REGION-docker.pkg.dev/PROJECT/radlake/beam:1 .
FROM apache/beam_python3.12_sdk:2.77.0
# The packages are all here: no environment of its own for each worker process.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /radlake
COPY requirements/beam.txt requirements.txt
RUN pip install --no-cache-dir --requirement requirements.txt
COPY setup.py pyproject.toml ./
COPY beam beam
COPY configs configs
COPY lake lake
COPY launch launch
COPY radlake radlake
COPY trainer trainer
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
