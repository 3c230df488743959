# AgentBench's image local-os/packages: local-os/default and npm.
ARG BASE=ubuntu:22.04
FROM $BASE
RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3 python3-pip git vim curl wget unzip zip tree procps gcc libc6-dev less apt-utils
RUN DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends npm
# Containers have no network: what problems install or remove comes from a repository inside the image.
RUN apt-get clean \
    && apt-get install --yes --no-install-recommends --download-only sudo net-tools \
    && mkdir /var/local/packages && mv /var/cache/apt/archives/*.deb /var/local/packages \
    && cd /var/local/packages && apt-ftparchive packages . >Packages \
    && rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* \
    && echo 'deb [trusted=yes] file:/var/local/packages ./' >/etc/apt/sources.list \
    && apt-get update
CMD ["bash"]
