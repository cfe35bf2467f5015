// The records: the same for everybody, those of examples/load.

package main

import "fmt"

// recordBytes is what one takes as a fanout.v1.Record.
const recordBytes = 330

// record is what an executor sends: its task, and a JSON document with a status, an outcome, nested members, numbers.
type record struct {
	taskID   string
	document []byte
}

func makeRecord(task int) record {
	const words = " and nothing else had to be changed;"
	const end = `"}`
	made := record{taskID: fmt.Sprintf("task-%d", task)}
	made.document = fmt.Appendf(make([]byte, 0, recordBytes),
		`{"status":"succeeded","attempt":1,"outcome":{"changed":%d,"score":0.%03d,"checks":{"lint":true,"tests":"passed"}},`+
			`"usage":{"input_tokens":%d,"seconds":1.5e1},"summary":"module \"%d\" is fine`,
		task%97, task%1_000, 1_000+task%9_000, task)
	// A tag and a length of one byte before the id, a tag and a length of two before the document.
	bytes := recordBytes - (2 + len(made.taskID)) - 3
	for nth := 0; len(made.document) < bytes-len(end); nth++ {
		made.document = append(made.document, words[nth%len(words)])
	}
	made.document = append(made.document, end...)
	return made
}

// share is the tasks of one of several senders: from first to before end.
func share(records, senders, nth int) (first, end int) {
	return records * nth / senders, records * (nth + 1) / senders
}
