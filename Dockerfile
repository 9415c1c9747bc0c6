# One static program in an image that holds nothing else: no shell, no libraries, no user database.
#
#   docker build -t tdc:dev .                             compiles in a container (needs the rust image)
#   docker build --build-arg BINARY=prebuilt -t tdc:dev . takes target/image/, as `make image PREBUILT=1` fills it
ARG BINARY=compiled

FROM docker.io/library/rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
RUN make release \
 && mkdir /image \
 && cp target/x86_64-unknown-linux-gnu/release/tdc /etc/ssl/certs/ca-certificates.crt /image/

FROM scratch AS prebuilt
COPY target/image/ /image/

FROM ${BINARY} AS binary

FROM scratch
LABEL org.opencontainers.image.title="Threat Defense Connector" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/threat-defense-connector/threat-defense-connector"
# The authorities that intakes and rediss:// are checked against; a file of its own at SSL_CERT_FILE replaces them.
COPY --from=binary /image/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binary /image/tdc /tdc
USER 65532:65532
ENTRYPOINT ["/tdc"]
