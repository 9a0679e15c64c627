//! Success or failure of an answer, as the verdict and the success rate count it.

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, and not as below.
    Success,
    /// 4xx, or the client went away: says nothing against the version.
    ClientError,
    /// 5xx, or no complete answer.
    Error,
    /// Answered with a `grpc-status` that counts as failure.
    GrpcError,
}

/// Judges an answer by its status and, where it is gRPC, its `grpc-status`.
#[must_use]
pub fn classify(status: u16, grpc_status: Option<u16>) -> Outcome {
    match (status, grpc_status) {
        (500.., _) => Outcome::Error,
        (400..=499, _) => Outcome::ClientError,
        (_, Some(code)) if grpc_failure(code).is_some() => Outcome::GrpcError,
        (_, Some(1..)) => Outcome::ClientError,
        _ => Outcome::Success,
    }
}

/// The HTTP status that a failed gRPC call stands for, so that series by code tell it apart; `None` if the server is
/// not to blame.
///
/// Which codes are the server's failures: OpenTelemetry's semantic conventions for gRPC server spans. The statuses:
/// `google/rpc/code.proto`.
#[must_use]
pub fn grpc_failure(code: u16) -> Option<u16> {
    match code {
        2 | 13 | 15 => Some(500), // UNKNOWN, INTERNAL, DATA_LOSS
        4 => Some(504),           // DEADLINE_EXCEEDED
        12 => Some(501),          // UNIMPLEMENTED
        14 => Some(503),          // UNAVAILABLE
        17.. => Some(500),        // not a code: gRPC treats it as UNKNOWN
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_and_grpc_status() {
        let cases = [
            (200, None, Outcome::Success),
            (302, None, Outcome::Success),
            (404, None, Outcome::ClientError),
            (499, None, Outcome::ClientError),
            (500, None, Outcome::Error),
            (503, Some(0), Outcome::Error),
            (200, Some(0), Outcome::Success),
            (200, Some(5), Outcome::ClientError),
            (200, Some(8), Outcome::ClientError),
            (200, Some(14), Outcome::GrpcError),
            (200, Some(2), Outcome::GrpcError),
            (200, Some(99), Outcome::GrpcError),
        ];
        for (status, grpc, expected) in cases {
            assert_eq!(classify(status, grpc), expected, "{status} {grpc:?}");
        }
    }
}
