# Runs `make demo` on the CPU. Besides make, the wheels need nothing that the slim image lacks.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make .venv/core
CMD ["make", "demo"]
