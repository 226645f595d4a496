package dwcp

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// The answers that come often are read by hand, in one pass and without reflection; encoding/json reads the
// others. BenchmarkReadEvent compares the two. What is not known is skipped, since newer nodes say more.

// reader reads JSON. After the first mistake nothing more is read, and bad is set. What it returns is copied.
type reader struct {
	json []byte
	at   int
	bad  bool
	last lasting
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// decode reads all of json with read.
func decode(json []byte, read func(*reader)) error {
	r := readers.Get().(*reader)
	defer func() {
		r.json = nil
		readers.Put(r)
	}()
	r.json, r.at, r.bad = json, 0, false
	read(r)
	r.skipSpace()
	if r.bad || r.at != len(json) {
		return &Error{Code: CodeSerialization, Message: "the answer is no valid JSON at byte " + strconv.Itoa(r.at)}
	}
	return nil
}

// decodeSeldom reads JSON into a value by its tags.
func decodeSeldom[T any](into *T) func([]byte) error {
	return func(text []byte) error {
		if err := json.Unmarshal(text, into); err != nil {
			return &Error{Code: CodeSerialization, Message: "the answer: " + err.Error(), cause: err}
		}
		return nil
	}
}

func (r *reader) skipSpace() {
	for r.at < len(r.json) {
		switch r.json[r.at] {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return
		}
	}
}

// take reads one character that may be there.
func (r *reader) take(c byte) bool {
	r.skipSpace()
	if r.at < len(r.json) && r.json[r.at] == c {
		r.at++
		return true
	}
	return false
}

// want reads one character that has to be there.
func (r *reader) want(c byte) {
	if !r.take(c) {
		r.fail()
	}
}

func (r *reader) fail() { r.bad = true }

// null reads null, where it is there.
func (r *reader) null() bool {
	r.skipSpace()
	if r.at < len(r.json) && r.json[r.at] == 'n' {
		r.word("null")
		return true
	}
	return false
}

func (r *reader) word(word string) {
	if len(r.json)-r.at < len(word) || string(r.json[r.at:r.at+len(word)]) != word {
		r.fail()
		return
	}
	r.at += len(word)
}

// raw reads the text between quotes as it stands; plain says that it has no escapes and is ASCII.
func (r *reader) raw() (text []byte, plain bool) {
	r.want('"')
	if r.bad {
		return nil, true
	}
	plain = true
	for i := r.at; i < len(r.json); i++ {
		switch c := r.json[i]; {
		case c == '"':
			text = r.json[r.at:i]
			r.at = i + 1
			return text, plain
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			r.fail()
			return nil, true
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	r.fail()
	return nil, true
}

func (r *reader) text() string {
	if r.null() {
		return ""
	}
	start := r.at
	text, plain := r.raw()
	if plain {
		return string(text)
	}
	var out string
	if json.Unmarshal(r.json[start:r.at], &out) != nil {
		r.fail()
	}
	return out
}

// number reads the text of a number.
func (r *reader) number() string {
	r.skipSpace()
	start := r.at
	for r.at < len(r.json) {
		switch c := r.json[r.at]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			r.at++
			continue
		}
		break
	}
	if start == r.at {
		r.fail()
	}
	return string(r.json[start:r.at])
}

func (r *reader) unsigned() (value uint64) {
	if r.null() {
		return 0
	}
	r.skipSpace()
	start := r.at
	for r.at < len(r.json) && r.json[r.at]-'0' <= 9 {
		digit := uint64(r.json[r.at] - '0')
		if value > (1<<64-1-digit)/10 {
			r.fail()
			return 0
		}
		value = value*10 + digit
		r.at++
	}
	if start == r.at {
		r.fail()
	}
	return value
}

func (r *reader) int() int {
	if r.null() {
		return 0
	}
	negative := r.take('-')
	value := r.unsigned()
	if value > 1<<62 {
		r.fail()
		return 0
	}
	if negative {
		return -int(value)
	}
	return int(value)
}

func (r *reader) float() float64 {
	if r.null() {
		return 0
	}
	value, err := strconv.ParseFloat(r.number(), 64)
	if err != nil {
		r.fail()
	}
	return value
}

func (r *reader) flag() bool {
	switch {
	case r.null():
		return false
	case r.at < len(r.json) && r.json[r.at] == 't':
		r.word("true")
		return true
	}
	r.word("false")
	return false
}

// next reads the name of the next field of an object into *name, which is valid until the next call; false
// after the last. first is true before the first one.
func (r *reader) next(name *[]byte, first *bool) bool {
	if *first {
		if r.null() {
			return false
		}
		r.want('{')
	}
	if r.bad {
		return false
	}
	if r.take('}') {
		return false
	}
	if !*first {
		r.want(',')
		r.skipSpace()
	}
	*first = false
	start := r.at
	text, plain := r.raw()
	if !plain {
		var name string
		if json.Unmarshal(r.json[start:r.at], &name) != nil {
			r.fail()
		}
		text = []byte(name)
	}
	*name = text
	r.want(':')
	return !r.bad
}

// item says whether there is another item of a list. first is true before the first one.
func (r *reader) item(first *bool) bool {
	if *first {
		if r.null() {
			return false
		}
		r.want('[')
		*first = false
		return !r.bad && !r.take(']')
	}
	if r.bad || r.take(']') {
		return false
	}
	r.want(',')
	return !r.bad
}

// depthMax is how deep what is skipped may be, as deep as encoding/json reads.
const depthMax = 10000

// skip reads any value.
func (r *reader) skip(depth int) {
	r.skipSpace()
	if r.at >= len(r.json) || depth > depthMax {
		r.fail()
		return
	}
	first := true
	switch r.json[r.at] {
	case '{':
		var name []byte
		for r.next(&name, &first) {
			r.skip(depth + 1)
		}
	case '[':
		for r.item(&first) {
			r.skip(depth + 1)
		}
	case '"':
		r.text()
	case 't', 'f':
		r.flag()
	case 'n':
		r.null()
	default:
		r.float()
	}
}

func (r *reader) time() time.Time {
	if r.null() {
		return time.Time{}
	}
	text, _ := r.raw()
	// The form that nodes write: 2006-01-02T15:04:05.000000+00:00.
	if len(text) == 32 && text[4] == '-' && text[7] == '-' && text[10] == 'T' && text[13] == ':' &&
		text[16] == ':' && text[19] == '.' && string(text[26:]) == "+00:00" {
		ok := true
		part := func(from, to int) (value int) {
			for _, c := range text[from:to] {
				ok = ok && c-'0' <= 9
				value = value*10 + int(c-'0')
			}
			return value
		}
		year, month, day := part(0, 4), part(5, 7), part(8, 10)
		hour, minute, second, micros := part(11, 13), part(14, 16), part(17, 19), part(20, 26)
		if ok && month >= 1 && month <= 12 && day >= 1 && day <= 28 && hour < 24 && minute < 60 && second < 60 {
			return time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC)
		}
	}
	parsed, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		r.fail()
	}
	return parsed.UTC()
}

func (r *reader) maybeTime() *time.Time {
	if r.null() {
		return nil
	}
	value := r.time()
	return &value
}

func (r *reader) texts() (list []string) {
	for first := true; r.item(&first); {
		list = append(list, r.text())
	}
	return list
}

func (r *reader) ints() (list []int) {
	for first := true; r.item(&first); {
		list = append(list, r.int())
	}
	return list
}

func (r *reader) pairs() (pairs map[string]string) {
	var name []byte
	for first := true; r.next(&name, &first); {
		if pairs == nil {
			pairs = make(map[string]string)
		}
		key := string(name)
		pairs[key] = r.text()
	}
	return pairs
}
