//! Objects as `kubectl get` shows them: the API server makes the table, here it is only laid out.

use anyhow::{Context as _, Result};
use http::{Request, header};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

/// meta.k8s.io/v1 `Table`, the fields that are shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    /// Above 0: only with `-o wide`.
    #[serde(default)]
    priority: i32,
}

#[derive(Debug, Deserialize)]
struct Row {
    cells: Vec<Value>,
}

/// The lines of the table of the objects at `path`, such as
/// `/apis/sluice.dev/v1beta1/namespaces/shop/canaries`.
///
/// # Errors
/// When the API server does not answer with a table.
pub async fn get(client: &Client, path: &str) -> Result<Vec<String>> {
    let request = Request::get(path)
        .header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .context("no such path")?;
    let table = client.request(request).await.with_context(|| format!("cannot get {path}"))?;
    Ok(lay_out(&table))
}

fn lay_out(table: &Table) -> Vec<String> {
    let shown: Vec<usize> = (0..table.column_definitions.len())
        .filter(|index| table.column_definitions.get(*index).is_some_and(|column| column.priority == 0))
        .collect();
    let head = shown.iter().map(|index| table.column_definitions[*index].name.to_uppercase()).collect();
    let mut lines: Vec<Vec<String>> = vec![head];
    for row in &table.rows {
        lines.push(shown.iter().map(|index| cell(row.cells.get(*index))).collect());
    }
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..shown.len()).map(|column| width(column).unwrap_or(0)).collect();
    lines.iter().map(|line| row_text(line, &widths)).collect()
}

fn row_text(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "<none>".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_wide_ones_are_left_out() {
        let table = serde_json::from_value(serde_json::json!({
            "columnDefinitions": [{ "name": "Name" }, { "name": "Status" }, { "name": "Message", "priority": 1 }, { "name": "Weight" }],
            "rows": [{ "cells": ["web", "Succeeded", "promoted", 0] }, { "cells": ["checkout", null, "", 25] }],
        }));
        let expected = "NAME       STATUS      WEIGHT\nweb        Succeeded   0\ncheckout   <none>      25";
        assert_eq!(lay_out(&table.unwrap()).join("\n"), expected);
    }
}
