// Package aepipe reports exchanges to aepipe (https://github.com/loadchange/aepipe), a log store on
// Cloudflare Workers, Analytics Engine and D1, and reads them back. Package aepipetest has a fake
// store for tests.
//
//	reporter, err := aepipe.New(aepipe.Config{
//		BaseURL: "https://aepipe.example.workers.dev",
//		Token:   os.Getenv("AEPIPE_TOKEN"),
//	})
//	if err != nil {
//		return err
//	}
//	proxy, err := apexproxy.New(
//		apexproxy.WithReporter(reporter, apexproxy.CaptureContent(512<<10)),
//		// …
//	)
//
// Without CaptureContent the same columns are written, and no headers and no bodies leave the
// process.
//
// # What is written
//
// Each record becomes one point in the logstore "requests" and one entry in the logstore "raw",
// both in the project "apex-ai-proxy"; [Config] can name others. Records of the operations liveness
// and preflight are not sent.
//
// A point is a row of Analytics Engine. Its columns are a schema: the order below never changes,
// new columns are appended.
//
//	blob1      project
//	blob2      logstore
//	blob3     event               method and path: POST /v1/chat/completions
//	blob4     level               error when the record's Failed says so, else info
//	blob5     ref_id              of the payload, for Client.Detail; empty without D1
//	blob6     provider            in passthrough mode the upstream's host
//	blob7     model               as the client asked for it, without #provider
//	blob8     endpoint_type       chat_completions, messages, count_tokens, responses, embeddings, models
//	blob9     status              as text: 200
//	blob10    stream              stream or sync
//	blob11    mode                gateway, passthrough or empty
//	blob12    outcome             completed, rejected, upstream_error, …
//	blob13    upstream_host       host or host:port
//	blob14    upstream_model      as sent upstream
//	blob15    finish_reason       as the upstream spelled it
//	blob16    identity            subject of who called
//	double1   duration_ms         milliseconds, until the last byte
//	double2   status              HTTP status, 499 when the client left first
//	double3   request_bytes       bytes
//	double4   response_bytes      bytes
//	double5   ttfb_ms             milliseconds until the first body byte, 0 when none came
//	double6   input_tokens        tokens, cached ones included; 0 when not said
//	double7   output_tokens       tokens, reasoning ones included; 0 when not said
//	double8   cache_read_tokens   tokens
//	double9   cache_write_tokens  tokens
//	double10  reasoning_tokens    tokens
//
// The point's payload, kept in D1 for 90 days where the store has one, is {request: {method, url,
// headers, body}, response: {status, headers, body, duration_ms}, meta: {provider, model,
// endpoint_type, is_stream, …}}.
//
// A raw entry is a line of Workers Logs with the fields message, level, provider, model,
// endpoint_type, is_stream, duration_ms, status, request_url, request_headers, request_body,
// request_body_size, response_headers, response_body and response_body_size. The sizes are the true
// ones.
//
// # Limits
//
// Analytics Engine cuts a point whose blobs exceed 16 KB without saying so, and D1 refuses rows
// over 2 MB. Both are kept from happening here: the longest blobs are shortened and end in "…", a
// body is cut at 512 KiB, or earlier where its JSON would grow too much, and ends in
// "…[truncated]"; headers and other texts are bounded too. Bytes that are not UTF-8 become U+FFFD.
//
// # Queries
//
// Analytics Engine samples: a row stands for _sample_interval exchanges, so every count and sum is
// weighted with it. Run these with [Client.Query].
//
// Tokens per model and day:
//
//	SELECT toStartOfDay(timestamp) AS day, blob7 AS model,
//	       SUM(double6 * _sample_interval) AS input_tokens,
//	       SUM(double7 * _sample_interval) AS output_tokens
//	FROM aepipe
//	WHERE timestamp > NOW() - INTERVAL '30' DAY
//	GROUP BY day, model
//	ORDER BY day, model
//
// The 95th percentile of the duration per provider, successful exchanges only:
//
//	SELECT blob6 AS provider,
//	       quantileExactWeighted(0.95)(double1, _sample_interval) AS p95_ms
//	FROM aepipe
//	WHERE timestamp > NOW() - INTERVAL '1' DAY AND blob4 = 'info'
//	GROUP BY provider
//	ORDER BY p95_ms DESC
//
// The share of failed exchanges per provider:
//
//	SELECT blob6 AS provider,
//	       SUM(IF(blob4 = 'error', _sample_interval, 0)) / SUM(_sample_interval) AS error_rate
//	FROM aepipe
//	WHERE timestamp > NOW() - INTERVAL '1' DAY
//	GROUP BY provider
//	ORDER BY error_rate DESC
package aepipe
