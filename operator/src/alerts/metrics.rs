//! The outbox in the operator's `/metrics`: how many messages wait, and what became of the others. Reads only.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Outbox;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Collector for Outbox {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.stats();
        let waiting = i64::try_from(stats.queued).unwrap_or(i64::MAX);
        let help = "Messages that wait to be sent to an AlertProvider";
        ConstGauge::new(waiting).encode(encoder.encode_descriptor(
            "alerts_queued",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Messages to AlertProviders by outcome; dropped: newer ones took their place";
        let mut alerts: MetricEncoder = encoder.encode_descriptor("alerts", help, None, MetricType::Counter)?;
        for (outcome, count) in [("delivered", stats.delivered), ("failed", stats.failed), ("dropped", stats.dropped)] {
            ConstCounter::new(count).encode(alerts.encode_family(&Outcome { outcome })?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::Metrics;
    use crate::alerts::outbox;
    use crate::outbound::{Outbound, Policy};

    #[tokio::test]
    async fn the_outbox_is_in_the_metrics() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let (outbox, _sender, _reports) = outbox(client, Outbound::new(Policy::default()).unwrap());
        let metrics = Metrics::new();
        metrics.register(|registry| registry.register_collector(Box::new(outbox.clone())));
        outbox.shared.lock().stats.failed = 2;
        let text = metrics.encode();
        assert!(text.contains("sluice_operator_alerts_queued 0\n"), "{text}");
        assert!(text.contains("sluice_operator_alerts_total{outcome=\"failed\"} 2\n"), "{text}");
    }
}
