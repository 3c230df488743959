# Debian's MariaDB, started as the published images mariadb and mysql are (MYSQL_ROOT_PASSWORD), where no registry can
# be reached: engine `docker:cyqd/mariadb`.
ARG BASE=debian:bookworm
FROM $BASE
RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends mariadb-server \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/lib/mysql/*
ENTRYPOINT ["bash", "-euc", "\
    chown mysql: /var/lib/mysql; \
    mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=normal >/dev/null; \
    echo \"ALTER USER root@localhost IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';\" >/run/first.sql; \
    exec mariadbd --no-defaults --user=mysql --init-file=/run/first.sql \"$@\"", "entrypoint"]
