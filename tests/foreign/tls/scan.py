"""sslyze scans both ports: they must offer only TLS 1.2 and 1.3, only forward secrecy and authenticated encryption, and
must not be vulnerable to the known attacks. See `run`."""

import pathlib
import sys
import tempfile

from sslyze import (
    ProtocolWithOpportunisticTlsEnum,
    ScanCommand,
    ScanCommandAttemptStatusEnum,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
    ServerScanStatusEnum,
)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients"))

from server import HOSTNAME, Server  # noqa: E402

FORBIDDEN = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
# Ephemeral key exchange and authenticated encryption.
STRONG = (
    "TLS_AES_",
    "TLS_CHACHA20_POLY1305_",
    "TLS_ECDHE_RSA_WITH_AES_",
    "TLS_ECDHE_ECDSA_WITH_AES_",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_",
)

COMMANDS = {
    ScanCommand.SSL_2_0_CIPHER_SUITES,
    ScanCommand.SSL_3_0_CIPHER_SUITES,
    ScanCommand.TLS_1_0_CIPHER_SUITES,
    ScanCommand.TLS_1_1_CIPHER_SUITES,
    ScanCommand.TLS_1_2_CIPHER_SUITES,
    ScanCommand.TLS_1_3_CIPHER_SUITES,
    ScanCommand.TLS_COMPRESSION,
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.TLS_FALLBACK_SCSV,
    ScanCommand.HEARTBLEED,
    ScanCommand.ROBOT,
    ScanCommand.OPENSSL_CCS_INJECTION,
    ScanCommand.SESSION_RENEGOTIATION,
    ScanCommand.ELLIPTIC_CURVES,
}


def judge(result):
    """Returns all faults in the results of a scan."""
    wrong = []
    for name in sorted(command.value for command in COMMANDS):
        attempt = getattr(result, name)
        if attempt.status != ScanCommandAttemptStatusEnum.COMPLETED:
            wrong.append(f"{name} was not completed: {attempt.error_reason} {attempt.error_trace}")
    if wrong:
        return wrong
    for version in FORBIDDEN:
        for suite in getattr(result, f"{version}_cipher_suites").result.accepted_cipher_suites:
            wrong.append(f"{version} is taken, with {suite.cipher_suite.name}")
    for version in ("tls_1_2", "tls_1_3"):
        accepted = getattr(result, f"{version}_cipher_suites").result.accepted_cipher_suites
        if not accepted:
            wrong.append(f"{version} is not taken")
        for suite in accepted:
            name = suite.cipher_suite.name
            if not name.startswith(STRONG) or "CBC" in name or "CCM_8" in name or name.endswith("_SHA"):
                wrong.append(f"{version}: weak suite {name}")
    for curve in result.elliptic_curves.result.supported_curves:
        if any(old in curve.name for old in ("160", "163", "192", "sect")):
            wrong.append(f"weak curve {curve.name}")
    renegotiation = result.session_renegotiation.result
    attacks = {
        "compression": result.tls_compression.result.supports_compression,
        "heartbleed": result.heartbleed.result.is_vulnerable_to_heartbleed,
        "CCS injection": result.openssl_ccs_injection.result.is_vulnerable_to_ccs_injection,
        "ROBOT": not result.robot.result.robot_result.name.startswith("NOT_VULNERABLE"),
        "early data, which can be replayed": result.tls_1_3_early_data.result.supports_early_data,
        "renegotiation by the client": renegotiation.is_vulnerable_to_client_renegotiation_dos,
    }
    return wrong + [f"vulnerable: {attack}" for attack, is_open in attacks.items() if is_open]


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-tls-") as folder:
        server = Server(folder, smart_host_port=1)
        server.start()
        try:
            failures = scan(server)
        finally:
            server.stop()
    for failure in failures:
        print(f"FAILED  {failure}")
    return 1 if failures else 0


def scan(server):
    ports = {
        server.submission: ("587, STARTTLS", ProtocolWithOpportunisticTlsEnum.SMTP),
        server.submissions: ("465", None),
    }
    scanner = Scanner()
    scanner.queue_scans(
        ServerScanRequest(
            server_location=ServerNetworkLocation(hostname=HOSTNAME, port=port, ip_address="127.0.0.1"),
            network_configuration=ServerNetworkConfiguration(HOSTNAME, tls_opportunistic_encryption=protocol),
            scan_commands=COMMANDS,
        )
        for port, (_, protocol) in ports.items()
    )
    failures, seen = [], 0
    for found in scanner.get_results():
        seen += 1
        name = ports[found.server_location.port][0]
        if found.scan_status != ServerScanStatusEnum.COMPLETED:
            failures.append(f"{name}: no connection: {found.connectivity_error_trace}")
            continue
        for version in ("tls_1_2", "tls_1_3"):
            accepted = getattr(found.scan_result, f"{version}_cipher_suites").result.accepted_cipher_suites
            print(f"{name}: {version}: {', '.join(sorted(suite.cipher_suite.name for suite in accepted))}")
        failures += [f"{name}: {wrong}" for wrong in judge(found.scan_result)]
    if seen != len(ports):
        failures.append(f"{seen} of {len(ports)} ports were scanned")
    return failures


if __name__ == "__main__":
    sys.exit(main())
