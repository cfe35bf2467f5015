# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
ARG TARGETARCH
# The commit, for --version and metrics: there is no repository in here. --build-arg FANOUT_COMMIT="$(git rev-parse HEAD)"
ARG FANOUT_COMMIT=
WORKDIR /src
COPY . .
# Fully static, so that the image needs nothing else. With an explicit --target the flags are for the program alone, not
# for procedural macros, which cannot be static. The sources are touched because the kept target directory may be newer
# than they are.
RUN --mount=type=cache,id=fanout-registry-${TARGETARCH},target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=fanout-target-${TARGETARCH},target=/src/target,sharing=locked \
    target="$(rustc --print host-tuple)" \
    && find build.rs proto src -type f -exec touch {} + \
    && FANOUT_COMMIT="$FANOUT_COMMIT" RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin fanout --target "$target" \
    && install -D "target/$target/release/fanout" /out/fanout

FROM scratch
LABEL org.opencontainers.image.title="fanout" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /LICENSE
COPY --from=build /out/fanout /fanout
USER 65532:65532
# In a container loopback reaches nobody. Without certificates and tokens (FANOUT_TLS_CERT, FANOUT_TOKENS and so on; then
# FANOUT_INSECURE=false) whoever reaches the port may read and change every plan: publish it only where that is so.
ENV FANOUT_LISTEN=0.0.0.0:7117 FANOUT_INSECURE=true
EXPOSE 7117
# Asks 127.0.0.1:7117. With another port in FANOUT_LISTEN, set FANOUT_SERVER too; with TLS as well (https://), and
# FANOUT_SERVER_NAME and FANOUT_CA.
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s --retries=3 CMD ["/fanout", "health"]
ENTRYPOINT ["/fanout"]
CMD ["serve"]
