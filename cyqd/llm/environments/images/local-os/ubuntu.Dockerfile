# AgentBench's image local-os/ubuntu, and the Python that containers are driven with.
ARG BASE=ubuntu:22.04
FROM $BASE
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && apt-get clean
RUN echo tmp >/file.txt
CMD ["bash"]
