package client

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	fanout "example/go-executor/generated/fanout/v1"
)

// What the documents say a plan does with records, in maps: the expectation of every receipt. Written from the comments
// in proto/ and the rules for documents; it knows nothing of how the server does it.

// The server's limits: bytes, bytes, levels, tasks.
const (
	bodyBytesMax  = 1 << 20
	keyBytesMax   = 1_024
	jsonDepthMax  = 512
	candidatesMax = 16
)

// document is a JSON object as encoding/json reads it.
type document = map[string]any

// textField is a text of a record that may stand in a typed field or in the body.
type textField struct {
	name string
	of   func(*fanout.Record) string
	set  func(*fanout.Record, string)
}

var (
	idField      = textField{"id", (*fanout.Record).GetId, func(r *fanout.Record, text string) { r.Id = text }}
	taskIDField  = textField{"task_id", (*fanout.Record).GetTaskId, func(r *fanout.Record, text string) { r.TaskId = text }}
	sessionField = textField{
		"sandbox_session_id", (*fanout.Record).GetSandboxSessionId,
		func(r *fanout.Record, text string) { r.SandboxSessionId = text },
	}
	groupKeyField = textField{
		"group_key", (*fanout.Record).GetGroupKey, func(r *fanout.Record, text string) { r.GroupKey = text },
	}
	statusField = textField{"status", (*fanout.Record).GetStatus, func(r *fanout.Record, text string) { r.Status = text }}

	textFields = []textField{idField, taskIDField, sessionField, groupKeyField, statusField}
)

// key is a field by which a record is matched.
type key struct {
	name string
	by   fanout.MatchedBy
}

// keys are tried in this order.
var keys = []key{
	{"task_id", fanout.MatchedBy_MATCHED_BY_TASK_ID},
	{"id", fanout.MatchedBy_MATCHED_BY_ID},
	{"sandbox_session_id", fanout.MatchedBy_MATCHED_BY_SANDBOX_SESSION_ID},
	{"group_key", fanout.MatchedBy_MATCHED_BY_GROUP_KEY},
}

// hostStatuses are the coordinator's words.
var hostStatuses = map[string]fanout.TaskStatus{
	"completed":      fanout.TaskStatus_TASK_STATUS_COMPLETED,
	"failed":         fanout.TaskStatus_TASK_STATUS_FAILED,
	"missing_record": fanout.TaskStatus_TASK_STATUS_MISSING_RECORD,
}

// doneWords are an executor's words for completed, beside `completed`.
var doneWords = []string{"succeeded", "no_op", "success", "passed", "accepted"}

// codes are the google.rpc.Code of each disposition.
var codes = map[fanout.Disposition]int32{
	fanout.Disposition_DISPOSITION_ACCEPTED:            0,
	fanout.Disposition_DISPOSITION_DUPLICATE:           0,
	fanout.Disposition_DISPOSITION_SUPERSEDED_PREVIOUS: 0,
	fanout.Disposition_DISPOSITION_UNMATCHED:           5,
	fanout.Disposition_DISPOSITION_AMBIGUOUS:           9,
	fanout.Disposition_DISPOSITION_LATE:                9,
	fanout.Disposition_DISPOSITION_INVALID:             3,
	fanout.Disposition_DISPOSITION_TOO_LARGE:           3,
}

// fact is what a receipt says of its record, but for what the server numbers.
type fact struct {
	Disposition fanout.Disposition
	TaskID      string
	MatchedBy   fanout.MatchedBy
	Revision    uint32
	Status      fanout.TaskStatus
	Successful  bool
	// The reconciled record; nil if the receipt has none.
	Record document
	// In ascending order.
	Warnings   []fanout.Warning
	Candidates []string
	// Zero if there is none. Field is the record's, without its place in the message.
	Violation violation
}

// violation is what is wrong with a record.
type violation struct {
	Field, Reason string
	Limit         uint64
}

// expected is what a receipt must say. The numbers are filled in from the receipt.
type expected struct {
	fact
	record *fanout.Record
	// The record as reconciled, if it is a result that was applied.
	document document
	// With DUPLICATE: the expectation of what it repeats; nil if no event stands behind it.
	original     *expected
	sequence     uint64
	quarantineID uint64
}

func (e *expected) isApplied() bool {
	return e.Disposition == fanout.Disposition_DISPOSITION_ACCEPTED ||
		e.Disposition == fanout.Disposition_DISPOSITION_SUPERSEDED_PREVIOUS
}

func (e *expected) isQuarantined() bool {
	return e.Disposition == fanout.Disposition_DISPOSITION_UNMATCHED ||
		e.Disposition == fanout.Disposition_DISPOSITION_AMBIGUOUS ||
		e.Disposition == fanout.Disposition_DISPOSITION_LATE
}

func (e *expected) isResult() bool { return isResult(e.record) }

// plannedTask is one task of a plan.
type plannedTask struct {
	position int
	// Its identity, and another name of it.
	taskID, id string
	groupKey   string
	// The session its task request names; may be empty.
	session string
	// The expectations of its record, and of the last sign of life before that.
	held, alive *expected
}

// taskSet is tasks by position.
type taskSet map[int]*plannedTask

// index is what tasks are called.
type index map[string]taskSet

func (x index) add(name string, task *plannedTask) {
	if name == "" {
		return
	}
	if x[name] == nil {
		x[name] = taskSet{}
	}
	x[name][task.position] = task
}

// oracle is a plan. Give it the records of a task in the order in which the server gets them.
type oracle struct {
	tasks       []*plannedTask
	ended       bool
	quarantined uint64
	identities  map[string]*plannedTask
	names       index
	sessions    index
	groupKeys   index
}

func newOracle(tasks []*plannedTask) *oracle {
	o := &oracle{
		tasks: tasks, identities: map[string]*plannedTask{}, names: index{}, sessions: index{}, groupKeys: index{},
	}
	for _, task := range tasks {
		o.identities[task.taskID] = task
		o.names.add(task.taskID, task)
		o.names.add(task.id, task)
		o.names.add(task.session, task)
		o.groupKeys.add(task.groupKey, task)
	}
	return o
}

// receive says what becomes of a record.
func (o *oracle) receive(record *fanout.Record) *expected {
	body, wrong := read(record)
	if wrong != nil {
		return wrong
	}
	texts := map[string]string{}
	for _, field := range textFields {
		texts[field.name] = textOf(record, field, body)
	}
	task, by, several := o.match(texts)
	if task == nil {
		return o.quarantine(record, several)
	}

	var e *expected
	if isResult(record) {
		e = o.result(record, body, texts, task)
	} else {
		e = o.signOfLife(record, task)
	}
	e.TaskID = task.taskID
	e.MatchedBy = by
	if task.held != nil {
		e.Revision, e.Status, e.Successful = task.held.Revision, task.held.Status, task.held.Successful
	}
	for _, key := range keys {
		if named := o.named(key.name, texts[key.name]); len(named) == 1 && named[0] != task {
			e.Warnings = []fanout.Warning{fanout.Warning_WARNING_KEYS_DISAGREE}
		}
	}
	for _, field := range textFields {
		inBody, has := body[field.name]
		if typed := field.of(record); has && typed != "" && inBody != any(typed) {
			e.Warnings = append(e.Warnings, fanout.Warning_WARNING_FIELD_IN_BODY_IGNORED)
			break
		}
	}
	if by != fanout.MatchedBy_MATCHED_BY_SANDBOX_SESSION_ID && !o.ended {
		o.sessions.add(texts["sandbox_session_id"], task)
	}
	return e
}

// match finds the task that a record is for, and by which field; else the tasks that the first key with any names.
func (o *oracle) match(texts map[string]string) (*plannedTask, fanout.MatchedBy, []*plannedTask) {
	for _, field := range []string{"task_id", "id", "group_key"} {
		identity := texts[field]
		if identity == "" {
			continue
		}
		if task := o.identities[identity]; task != nil {
			at := slices.IndexFunc(keys, func(key key) bool { return key.name == field })
			return task, keys[at].by, nil
		}
		break
	}
	var several []*plannedTask
	for _, key := range keys {
		named := o.named(key.name, texts[key.name])
		if len(named) == 1 {
			return named[0], key.by, nil
		}
		if several == nil {
			several = named
		}
	}
	return nil, 0, several
}

// named lists the tasks that a key names, in plan order; nil if there are none.
func (o *oracle) named(key, name string) []*plannedTask {
	tasks := o.names[name]
	switch {
	case name == "":
		return nil
	case key == "group_key":
		tasks = o.groupKeys[name]
	case key == "sandbox_session_id" && tasks == nil:
		tasks = o.sessions[name]
	}
	var named []*plannedTask
	for _, position := range slices.Sorted(maps.Keys(tasks)) {
		named = append(named, tasks[position])
	}
	return named
}

func (o *oracle) quarantine(record *fanout.Record, candidates []*plannedTask) *expected {
	o.quarantined++
	e := &expected{record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_UNMATCHED}}
	if candidates != nil {
		e.Disposition = fanout.Disposition_DISPOSITION_AMBIGUOUS
	}
	for _, task := range candidates[:min(len(candidates), candidatesMax)] {
		e.Candidates = append(e.Candidates, task.taskID)
	}
	return e
}

func (o *oracle) result(record *fanout.Record, body document, texts map[string]string, task *plannedTask) *expected {
	status := hostStatus(record, body, texts["status"])
	reconciled := maps.Clone(body)
	for _, field := range textFields {
		if text := field.of(record); text != "" {
			reconciled[field.name] = text
		}
	}
	if record.Success != nil {
		reconciled["success"] = *record.Success
	}
	reconciled["status"] = status
	if task.held != nil && reflect.DeepEqual(task.held.document, reconciled) {
		return &expected{
			record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_DUPLICATE}, original: task.held,
		}
	}
	if o.ended {
		o.quarantined++
		return &expected{record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_LATE}}
	}
	e := &expected{record: record, document: reconciled}
	e.fact = fact{
		Disposition: fanout.Disposition_DISPOSITION_ACCEPTED,
		Revision:    1,
		Status:      hostStatuses[status],
		Successful:  reconciled["success"] == true || status == "completed",
		Record:      reconciled,
	}
	if task.held != nil {
		e.Disposition = fanout.Disposition_DISPOSITION_SUPERSEDED_PREVIOUS
		e.Revision = task.held.Revision + 1
	}
	task.held, task.alive = e, nil
	return e
}

// signOfLife is STARTED and PROGRESS. STARTED tells nothing new of a task that is under way.
func (o *oracle) signOfLife(record *fanout.Record, task *plannedTask) *expected {
	duplicate := &expected{record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_DUPLICATE}}
	if task.held != nil {
		// No event stands behind it: the sign of life is forgotten with the record.
		return duplicate
	}
	started := record.Kind == fanout.RecordKind_RECORD_KIND_STARTED
	if task.alive != nil && (started || proto.Equal(task.alive.record, record)) {
		duplicate.original = task.alive
		return duplicate
	}
	if o.ended {
		o.quarantined++
		return &expected{record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_LATE}}
	}
	task.alive = &expected{record: record, fact: fact{Disposition: fanout.Disposition_DISPOSITION_ACCEPTED}}
	return task.alive
}

// counts are the plan's counts, but for `items` and `groups`.
func (o *oracle) counts() *fanout.Counts {
	counts := &fanout.Counts{Tasks: uint64(len(o.tasks)), Quarantined: o.quarantined}
	for _, task := range o.tasks {
		switch {
		case task.held == nil:
			counts.Missing++
		case task.held.Successful:
			counts.Successful++
		default:
			counts.Failed++
		}
		if task.alive != nil {
			counts.Running++
		}
		if task.held != nil && isPresent(task.held.document["outcome"]) {
			counts.Outcomes++
		}
	}
	counts.Recorded = counts.Successful + counts.Failed
	return counts
}

// resultDocument has the members `records`, `outcomes`, `reconciliation` (but for its schema) and `status`, of an ended
// plan.
func (o *oracle) resultDocument() document {
	records, outcomes, failed := []any{}, []any{}, []any{}
	for _, task := range o.tasks {
		if task.held == nil {
			records = append(records, document{"id": task.taskID, "group_key": task.groupKey, "status": "missing_record"})
		} else {
			records = append(records, task.held.document)
			if outcome := task.held.document["outcome"]; isPresent(outcome) {
				outcomes = append(outcomes, outcome)
			}
		}
		if task.held == nil || !task.held.Successful {
			failed = append(failed, task.taskID)
		}
	}
	status := "completed"
	if len(failed) > 0 {
		status = "failed"
	}
	tasks := float64(len(o.tasks))
	return document{
		"records":  records,
		"outcomes": outcomes,
		"reconciliation": document{
			"group_count":     tasks,
			"task_count":      tasks,
			"record_count":    tasks,
			"success_count":   tasks - float64(len(failed)),
			"failure_count":   float64(len(failed)),
			"outcome_count":   float64(len(outcomes)),
			"failed_task_ids": failed,
		},
		"status": status,
	}
}

func isResult(record *fanout.Record) bool {
	return record.Kind == fanout.RecordKind_RECORD_KIND_UNSPECIFIED || record.Kind == fanout.RecordKind_RECORD_KIND_RESULT
}

// textOf is a text of a record, the typed one if there is one.
func textOf(record *fanout.Record, field textField, body document) string {
	if typed := field.of(record); typed != "" {
		return typed
	}
	text, _ := body[field.name].(string)
	return text
}

// isPresent says whether a value counts as given. Empty lists and objects do.
func isPresent(value any) bool {
	return value != nil && value != any("") && value != any(0.0) && value != any(false)
}

// hostStatus is the coordinator's word for a record's own ones.
func hostStatus(record *fanout.Record, body document, own string) string {
	if _, known := hostStatuses[own]; known {
		return own
	}
	success := body["success"] == true
	if record.Success != nil {
		success = *record.Success
	}
	outcome, _ := body["outcome"].(document)
	word, _ := outcome["status"].(string)
	if success || slices.Contains(doneWords, own) || word == "completed" || slices.Contains(doneWords, word) {
		return "completed"
	}
	return "failed"
}

// read is a record's body, or the expectation of a record that is INVALID or TOO_LARGE.
func read(record *fanout.Record) (document, *expected) {
	refused := func(disposition fanout.Disposition, field, reason string, limit uint64) (document, *expected) {
		wrong := &expected{record: record, fact: fact{Disposition: disposition}}
		wrong.Violation = violation{field, reason, limit}
		return nil, wrong
	}
	invalid := func(field, reason string) (document, *expected) {
		return refused(fanout.Disposition_DISPOSITION_INVALID, field, reason, 0)
	}
	tooLarge := func(field, reason string, limit uint64) (document, *expected) {
		return refused(fanout.Disposition_DISPOSITION_TOO_LARGE, field, reason, limit)
	}

	if _, known := fanout.RecordKind_name[int32(record.Kind)]; !known {
		return invalid("kind", "UNKNOWN_ENUM_VALUE")
	}
	if len(record.Body) > bodyBytesMax {
		return tooLarge("body", "BODY_TOO_LARGE", bodyBytesMax)
	}
	text := record.Body
	if len(text) == 0 {
		text = []byte("{}")
	}
	var value any
	if !utf8.Valid(text) || json.Unmarshal(text, &value) != nil {
		return invalid("body", "INVALID_JSON")
	}
	if depth(text) > jsonDepthMax {
		return tooLarge("body", "JSON_LIMIT_EXCEEDED", jsonDepthMax)
	}
	body, isObject := value.(document)
	if !isObject {
		return invalid("body", "INVALID_JSON")
	}
	for _, field := range textFields {
		text := textOf(record, field, body)
		if len(text) > keyBytesMax {
			return tooLarge(field.name, "KEY_TOO_LONG", keyBytesMax)
		}
		if strings.Contains(text, "\x00") {
			return invalid(field.name, "INVALID_TEXT")
		}
	}
	return body, nil
}

// depth says how deep lists and objects are nested in valid JSON.
func depth(text []byte) int {
	deepest, level := 0, 0
	tokens := json.NewDecoder(bytes.NewReader(text))
	for {
		token, err := tokens.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			level++
			deepest = max(deepest, level)
		case json.Delim(']'), json.Delim('}'):
			level--
		}
	}
}
