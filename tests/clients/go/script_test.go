package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	fanout "example/go-executor/generated/fanout/v1"
)

// words are what executors call how it went.
var words = []string{
	"completed", "success", "succeeded", "passed", "accepted", "no_op", "failed", "error", "crashed", "",
}

// script is what one stream sends: records of its own tasks in every form there is, drawn from a seed, and the
// expectations of their receipts.
type script struct {
	oracle *oracle
	tasks  []*plannedTask
	draw   *rand.Rand
	name   string
	serial int
	steps  []*expected
	// Sessions that task requests name, and those that records of this stream have named.
	plannedSessions, sessions []string
}

func newScript(oracle *oracle, tasks []*plannedTask, seed, number uint64) *script {
	s := &script{oracle: oracle, tasks: tasks, draw: rand.New(rand.NewPCG(seed, number)), name: fmt.Sprint(number)}
	for _, task := range tasks {
		if task.session != "" {
			s.plannedSessions = append(s.plannedSessions, task.session)
		}
	}
	return s
}

// write adds so many records, and returns their expectations.
func (s *script) write(length int) []*expected {
	forms := []struct {
		weight int
		make   func() *fanout.Record
	}{
		{20, s.byTaskID},
		{15, s.byID},
		{15, s.bySession},
		{15, s.byGroupKey},
		{6, s.started},
		{8, s.progress},
		{15, s.again},
		{8, s.againInTheBody},
		{3, s.inTwoPlaces},
		{3, s.withKeysThatDisagree},
		{4, s.stray},
		{4, s.broken},
	}
	total := 0
	for _, form := range forms {
		total += form.weight
	}
	before := len(s.steps)
	for range length {
		roll := s.draw.IntN(total)
		for _, form := range forms {
			if roll -= form.weight; roll < 0 {
				s.add(form.make())
				break
			}
		}
	}
	return s.steps[before:]
}

// writeHeavy adds two records: one of many bytes, one of many levels.
func (s *script) writeHeavy() {
	text := bytes.Repeat([]byte("x"), bodyBytesMax)
	s.add(&fanout.Record{Id: s.anyTask().taskID, Body: fmt.Appendf(nil, `{"text":"%s"}`, text)})
	deep := strings.Repeat("[", jsonDepthMax) + strings.Repeat("]", jsonDepthMax)
	s.add(&fanout.Record{Id: s.anyTask().taskID, Body: fmt.Appendf(nil, `{"deep":%s}`, deep)})
}

func (s *script) add(record *fanout.Record) {
	s.steps = append(s.steps, s.oracle.receive(record))
}

// messages cuts steps into messages of one record and of up to 50.
func (s *script) messages(steps []*expected) [][]*expected {
	var messages [][]*expected
	for len(steps) > 0 {
		size := 1
		if s.draw.IntN(4) == 0 {
			size = min(len(steps), 2+s.draw.IntN(49))
		}
		messages = append(messages, steps[:size])
		steps = steps[size:]
	}
	return messages
}

func (s *script) anyTask() *plannedTask { return pick(s.draw, s.tasks...) }

func (s *script) chance(of float64) bool { return s.draw.Float64() < of }

// fresh is a text that no other record has.
func (s *script) fresh(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s-%s-%d", prefix, s.name, s.serial)
}

// session is most often none; else a new one, or one that was named before, maybe for another task.
func (s *script) session() string {
	switch roll := s.draw.Float64(); {
	case roll < 0.5:
		return ""
	case roll < 0.9 || len(s.sessions) == 0:
		session := s.fresh("session")
		s.sessions = append(s.sessions, session)
		return session
	}
	return pick(s.draw, s.sessions...)
}

// made is a record with these texts, each as a typed field or in the body, which is returned, too.
func (s *script) made(kind fanout.RecordKind, texts map[string]string) (*fanout.Record, document) {
	record, body := &fanout.Record{Kind: kind}, document{"note": s.fresh("note")}
	for _, field := range textFields {
		text := texts[field.name]
		switch {
		case text == "":
		case s.chance(0.5):
			field.set(record, text)
		default:
			body[field.name] = text
		}
	}
	record.Body = compact(body)
	return record, body
}

func (s *script) result(texts map[string]string) *fanout.Record {
	texts["status"] = pick(s.draw, words...)
	record, body := s.made(fanout.RecordKind_RECORD_KIND_UNSPECIFIED, texts)
	if s.chance(0.2) {
		record.Success = new(s.chance(0.5))
	} else if s.chance(0.1) {
		body["success"] = pick[any](s.draw, true, false, "true", 1)
	}
	if s.chance(0.5) {
		body["outcome"] = pick[any](s.draw, 0, "", false, nil, []any{}, document{}, "é\u2028\"\\", []any{1.5, "two"},
			document{"status": "passed"}, document{"status": "lost"})
	}
	record.Body = compact(body)
	return record
}

func (s *script) byTaskID() *fanout.Record {
	task := s.anyTask()
	return s.result(map[string]string{
		"task_id": pick(s.draw, task.taskID, task.id), "sandbox_session_id": s.session(),
	})
}

func (s *script) byID() *fanout.Record {
	task := s.anyTask()
	return s.result(map[string]string{
		"task_id":            pick(s.draw, "", "", s.fresh("unknown")),
		"id":                 pick(s.draw, task.taskID, task.id),
		"sandbox_session_id": s.session(),
	})
}

func (s *script) bySession() *fanout.Record {
	sessions := s.plannedSessions
	if len(s.sessions) > 0 && s.chance(0.8) {
		sessions = s.sessions
	}
	return s.result(map[string]string{
		"id": pick(s.draw, "", s.fresh("run")), "sandbox_session_id": pick(s.draw, sessions...),
	})
}

// byGroupKey is ambiguous for the tasks that share their key.
func (s *script) byGroupKey() *fanout.Record {
	return s.result(map[string]string{"id": pick(s.draw, "", s.fresh("run")), "group_key": s.anyTask().groupKey})
}

func (s *script) started() *fanout.Record {
	record, _ := s.made(fanout.RecordKind_RECORD_KIND_STARTED, map[string]string{
		"task_id": s.anyTask().taskID, "sandbox_session_id": s.session(),
	})
	return record
}

func (s *script) progress() *fanout.Record {
	record, _ := s.made(fanout.RecordKind_RECORD_KIND_PROGRESS, map[string]string{
		"id": s.anyTask().taskID, "sandbox_session_id": s.session(),
	})
	return record
}

// again is what a task has, once more and unchanged.
func (s *script) again() *fanout.Record {
	for range 20 {
		switch task := s.anyTask(); {
		case task.held != nil:
			return task.held.record
		case task.alive != nil:
			return task.alive.record
		}
	}
	return s.byTaskID()
}

// againInTheBody is the record that a task has once more, with its typed fields in the body. The members are in the order
// of the reconciled record (typed ones, the body's, the status), as the server takes another order for other content.
func (s *script) againInTheBody() *fanout.Record {
	for range 20 {
		task := s.anyTask()
		if task.held == nil {
			continue
		}
		sent := task.held.record
		body, _ := read(sent)
		var members, status []string
		clash := false
		for _, field := range textFields {
			text := field.of(sent)
			if text == "" {
				continue
			}
			_, inBody := body[field.name]
			clash = clash || inBody
			member := fmt.Sprintf("%q:%s", field.name, compact(text))
			if field.name == statusField.name {
				status = []string{member}
			} else {
				members = append(members, member)
			}
		}
		if clash || len(members)+len(status) == 0 || len(body) == 0 {
			continue
		}
		if sent.Success != nil {
			members = append(members, fmt.Sprintf(`"success":%v`, *sent.Success))
		}
		members = append(members, string(sent.Body[1:len(sent.Body)-1]))
		members = append(members, status...)
		return &fanout.Record{Body: []byte("{" + strings.Join(members, ",") + "}")}
	}
	return s.byTaskID()
}

func (s *script) inTwoPlaces() *fanout.Record {
	record := s.result(map[string]string{})
	record.TaskId = s.anyTask().taskID
	body, _ := read(record)
	body["task_id"] = pick(s.draw, record.TaskId, s.fresh("ignored"))
	record.Body = compact(body)
	return record
}

func (s *script) withKeysThatDisagree() *fanout.Record {
	return s.result(map[string]string{"task_id": s.anyTask().taskID, "group_key": s.anyTask().groupKey})
}

func (s *script) stray() *fanout.Record {
	keys := map[string]string{}
	for _, field := range textFields {
		keys[field.name] = pick(s.draw, "", s.fresh("stray"))
	}
	return s.result(keys)
}

func (s *script) broken() *fanout.Record {
	record := s.byTaskID()
	switch s.draw.IntN(6) {
	case 0:
		record.Body = []byte(pick(s.draw,
			`{`, `[]`, `7`, `{"a":1}x`, `{'a':1}`, "{\"a\":\"\xff\"}", `{"a":01}`, `null`))
	case 1:
		record.Id = strings.Repeat("x", keyBytesMax+1)
	case 2:
		record.SandboxSessionId = "a\x00b"
	case 3:
		record.Kind = 99
	case 4:
		record.Status = strings.Repeat("é", keyBytesMax/2+1)
	default:
		record.Body = compact(document{"group_key": strings.Repeat("y", keyBytesMax+1)})
	}
	return record
}

// pick draws one of several.
func pick[T any](draw *rand.Rand, from ...T) T { return from[draw.IntN(len(from))] }

// compact is a value as JSON.
func compact(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // The tests make their values of what JSON has.
	}
	return text
}

// records are what a message of steps sends.
func records(steps []*expected) []*fanout.Record {
	var records []*fanout.Record
	for _, step := range steps {
		records = append(records, step.record)
	}
	return records
}
