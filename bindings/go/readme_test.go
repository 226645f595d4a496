package dwcp_test

import (
	"regexp"
	"strings"
	"testing"
)

// unindented is text without the spaces that begin its lines.
func unindented(text string) string {
	return regexp.MustCompile(`(?m)^[ \t]+`).ReplaceAllString(text, "")
}

func TestTheSnippetsOfTheReadmeAreTested(t *testing.T) {
	examples := unindented(read(t, "example_test.go"))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d snippets", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(examples, unindented(block[1])) {
			t.Errorf("not in example_test.go:\n%s", block[1])
		}
	}
}
