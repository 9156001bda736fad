# docker build -t tortie:0.1.0 .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin tortie && strip target/release/tortie

# glibc and libgcc, and nothing else.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/tortie /usr/bin/tortie
ENTRYPOINT ["/usr/bin/tortie"]
CMD ["run", "--config", "/etc/tortie/node.yaml"]
