package dwcp

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"
)

// method is the name of a method, which ends with a NUL.
type method string

// text is the name without the NUL.
func (m method) text() string { return strings.TrimSuffix(string(m), "\x00") }

// fields are those of a request, a JSON object that is being written. Nil has none.
type fields []byte

// text adds a field.
func (f fields) text(name, value string) fields {
	return appendText(f.name(name), value)
}

// json adds a field of any type; those of the requests cannot fail to be written.
func (f fields) json(name string, value any) (fields, error) {
	written, err := json.Marshal(value)
	if err != nil {
		return nil, &Error{Code: CodeInvalidConfig, Message: name + ": " + err.Error()}
	}
	return append(f.name(name), written...), nil
}

func (f fields) name(name string) fields {
	if f == nil {
		f = append(make(fields, 0, 96), '{')
	} else {
		f = append(f, ',')
	}
	f = append(f, '"')
	f = append(f, name...)
	return append(f, '"', ':')
}

// end closes the object.
func (f fields) end() []byte {
	if f == nil {
		return []byte("{}")
	}
	return append(f, '}')
}

// appendText writes text as JSON; what is no UTF-8 becomes U+FFFD.
func appendText(to []byte, value string) []byte {
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			// Text can always be written.
			written, _ := json.Marshal(value)
			return append(to, written...)
		}
	}
	to = append(to, '"')
	to = append(to, value...)
	return append(to, '"')
}

// durationText is a duration as requests have it; empty for zero, which asks for nothing.
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
