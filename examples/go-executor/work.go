package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	fanout "example/go-executor/generated/fanout/v1"
)

// word is letters, digits and underscores of any script.
var word = regexp.MustCompile(`[\p{L}\p{M}\p{N}_]+`)

// outcome is what the work on one task comes to.
type outcome struct {
	// Number of words.
	Words int `json:"words"`
	// The first of the most frequent ones in the alphabet, so that the outcome depends on the request only.
	Common string `json:"common"`
	// Hash of the task request: 64 hex digits.
	SHA256 string `json:"sha256"`
}

// count is the work on one task request, a JSON document: a stand-in. It reports each step that it has done.
func count(document []byte, report func(step map[string]any) error) (*outcome, error) {
	var parsed any
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, err
	}
	found := texts(parsed, nil)
	if err := report(map[string]any{"step": "read", "texts": len(found)}); err != nil {
		return nil, err
	}
	hash := sha256.Sum256(document)
	counted := &outcome{SHA256: hex.EncodeToString(hash[:])}
	times := map[string]int{}
	for _, text := range found {
		for _, word := range word.FindAllString(strings.ToLower(text), -1) {
			counted.Words++
			times[word]++
		}
	}
	for word, n := range times {
		if most := times[counted.Common]; n > most || n == most && word < counted.Common {
			counted.Common = word
		}
	}
	if err := report(map[string]any{"step": "counted", "words": counted.Words}); err != nil {
		return nil, err
	}
	return counted, nil
}

// texts appends all strings of a JSON value.
func texts(value any, to []string) []string {
	switch value := value.(type) {
	case string:
		to = append(to, value)
	case []any:
		for _, part := range value {
			to = texts(part, to)
		}
	case map[string]any:
		for _, part := range value {
			to = texts(part, to)
		}
	}
	return to
}

// perform works on one task and sends its records: STARTED, a PROGRESS after each step, the result. It fails with
// errStopped only: whatever else the work dies of is this task's result.
//
// The records name the task and the session. From the first one on the server knows the session, too.
func perform(task *fanout.TaskRequest, session string, send func(*fanout.Record) error) error {
	sendAs := func(kind fanout.RecordKind, status string, body map[string]any) error {
		document, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("no JSON: %w", err)
		}
		return send(&fanout.Record{
			TaskId: task.TaskId, SandboxSessionId: session, Kind: kind, Status: status, Body: document,
		})
	}
	if err := sendAs(fanout.RecordKind_RECORD_KIND_STARTED, "", map[string]any{}); err != nil {
		return err
	}
	counted, err := count(task.Document, func(step map[string]any) error {
		return sendAs(fanout.RecordKind_RECORD_KIND_PROGRESS, "", step)
	})
	if errors.Is(err, errStopped) {
		return err
	}
	if err != nil {
		return sendAs(fanout.RecordKind_RECORD_KIND_RESULT, "failed", map[string]any{"error": err.Error()})
	}
	return sendAs(fanout.RecordKind_RECORD_KIND_RESULT, "completed", map[string]any{"outcome": counted})
}
